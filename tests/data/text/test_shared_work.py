"""Work shared out among processes that see one folder: all of it is done, by whoever is there."""

import os
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from trainer.data.text import shared_work
from trainer.data.text.shared_work import Claims, WorkShare, share_work
from trainer.data.text.workers import Work, in_process
from trainer.errors import InputError
from trainer.machine.durable import write_text


@dataclass(frozen=True)
class Square(Work[int, int]):
    """Writes the square of a number; notes down who did."""

    folder: Path
    who: str = ""
    slow_s: float = 0.0
    fails_at: int = -1

    def note(self, item):
        return self.folder / f"{item}.txt"

    def __call__(self, item):
        if not self.note(item).exists():
            time.sleep(self.slow_s)
            if item == self.fails_at:
                raise InputError(f"item {item}")
            with (self.folder / "log").open("a") as log:
                log.write(f"{self.who} {item}\n".lstrip())
            write_text(self.note(item), str(item * item))
        return int(self.note(item).read_text())


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    monkeypatch.setattr(shared_work, "POLL_S", (0.01, 0.05))


def run(work, share, count=20):
    with share_work(work.folder / "claims", share) as shared:
        return list(shared(in_process)(work, range(count)))


def test_one_alone_does_all_shares(tmp_path):
    assert run(Square(tmp_path), WorkShare(2, 5, "x")) == [n * n for n in range(20)]
    assert [int(line) for line in (tmp_path / "log").read_text().splitlines()] == [*range(8, 20), *range(8)]
    assert list((tmp_path / "claims").iterdir()) == []
    assert run(Square(tmp_path), WorkShare(0, 1, "y"), 0) == []


def test_several_do_each_item_once_and_all_get_all_results(tmp_path):
    results = {}

    def element(number):
        results[number] = run(Square(tmp_path, f"e{number}", slow_s=0.01), WorkShare(number, 3, f"e{number}"), 30)

    threads = [threading.Thread(target=element, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == {number: [n * n for n in range(30)] for number in range(3)}
    done = [line.split() for line in (tmp_path / "log").read_text().splitlines()]
    assert sorted(int(item) for _, item in done) == list(range(30))
    assert {who for who, _ in done} == {"e0", "e1", "e2"}


def test_a_claim_holds_until_it_is_stale_or_its_owner_comes_back(tmp_path, monkeypatch):
    mine, theirs = Claims(tmp_path, "mine"), Claims(tmp_path, "theirs")
    assert theirs.take("a")
    assert not mine.take("a")
    assert Claims(tmp_path, "theirs").take("a")  # after a restart
    long_ago = time.time() - shared_work.STALE_S - 5
    os.utime(tmp_path / "a.claim", (long_ago, long_ago))
    theirs.touch()
    assert not mine.take("a")
    os.utime(tmp_path / "a.claim", (long_ago, long_ago))
    assert mine.take("a")
    assert not theirs.take("a")
    (tmp_path / "b.claim").mkdir()
    assert not mine.take("b")


def test_what_an_element_that_was_killed_had_claimed_is_done_by_others(tmp_path, monkeypatch):
    monkeypatch.setattr(shared_work, "STALE_S", 0.2)
    dead = Claims(tmp_path / "claims", "dead")
    assert all(dead.take(f"{item}.txt") for item in (0, 3, 4))
    assert run(Square(tmp_path), WorkShare(0, 2, "alive")) == [n * n for n in range(20)]


def test_a_failure_ends_an_element_and_lets_go_of_its_claims(tmp_path):
    with pytest.raises(InputError, match="item 5"):
        run(Square(tmp_path, fails_at=5), WorkShare(0, 2, "x"))
    assert list((tmp_path / "claims").iterdir()) == []


def test_a_failure_does_not_count_if_the_item_was_done_by_another(tmp_path):
    class Beaten(Square):
        def __call__(self, item):
            if item == 5 and not self.note(item).exists():
                self.note(item).write_text("25")
                raise InputError("its documents are gone: another was faster")
            return super().__call__(item)

    assert run(Beaten(tmp_path), WorkShare(0, 2, "x")) == [n * n for n in range(20)]
