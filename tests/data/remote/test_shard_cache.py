"""Processes that fetch into one cache, which has room for two shards, and remove what others have fetched."""

import random
import sys
import threading
from dataclasses import dataclass

from trainer.data.remote.shard_cache import NoRoom, ShardCache

BYTES = 100


@dataclass(frozen=True)
class Size:
    """What the cache asks of a manifest's shard."""

    bytes: int = BYTES


@dataclass(frozen=True)
class MadeShard:
    """A shard that is there as soon as it is asked for."""

    number: int
    shard: Size = Size()

    @property
    def name(self):
        return f"set/shard-{self.number}.tar"

    def fetch(self, file):
        file.write(bytes([self.number]) * BYTES)

    def admit(self, partial, path):
        assert partial.read_bytes() == bytes([self.number]) * BYTES

    def is_whole(self, path, file):
        return file.read() == bytes([self.number]) * BYTES


def test_who_makes_room_leaves_what_another_is_about_to_write(tmp_path):
    errors, brought = [], []

    def work(seed):
        draw, cache = random.Random(seed), ShardCache(tmp_path, 2 * BYTES)
        for _ in range(150):
            shard = MadeShard(draw.randrange(8))
            try:
                if cache.bring(shard, lambda folder, file: None, lambda name: None) and cache.hold(shard):
                    brought.append((tmp_path / shard.name).read_bytes() == bytes([shard.number]) * BYTES)
                    cache.let_go(shard)
            except NoRoom:
                pass
            except Exception as error:
                errors.append(repr(error))

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert errors == []
    assert len(brought) > 50
    assert all(brought)
    assert sum(path.stat().st_size for path in tmp_path.rglob("*.tar")) <= 2 * BYTES
