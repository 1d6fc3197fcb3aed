"""`banyan data index` in a SLURM array: its elements share the tars out, and one may be queued again or cancelled."""

import pytest

from tests.cluster.slurm.jobs import SCRIPTS, write_setup
from tests.corpus import write_texts
from tests.data.web.wds import index_wds, write_wds
from trainer.data.tokens.manifest import read_manifest


@pytest.mark.full
@pytest.mark.parametrize("victim", ["requeued", "cancelled"])
def test_an_array_indexes_together_whatever_becomes_of_its_elements(cluster, tmp_path, victim):
    """A requeued element takes up what it had claimed; a cancelled one's is done by others, after a minute."""
    write_wds(tmp_path / "tars", [{"txt": text} for text in write_texts(4000, seed=3)], (100,) * 40)
    calm, out = index_wds(str(tmp_path / "tars"), tmp_path, output=str(tmp_path / "calm")), tmp_path / "out"
    export = f"--export=ALL,BANYAN_SETUP={write_setup(tmp_path)},BANYAN_VERB=data index"
    keys = [str(tmp_path / "tars"), f"data.output={out}", f"data.tokenizer.path={tmp_path / 'tokenizer'}"]

    def submit(elements):
        options = [f"--array={elements}", "--cpus-per-task=1", export]
        return cluster.submit(*options, str(SCRIPTS / "prepare.sbatch"), *keys, folder=tmp_path)

    def element(array, number):
        jobs = [job for job in cluster.jobs() if job.get("ArrayJobId") == array]
        return next((job for job in jobs if job["ArrayTaskId"] == number), None)

    def log():
        return "\n".join(path.read_text() for path in sorted(tmp_path.glob("banyan-prepare-*.log")))

    array = submit("0-1")
    cluster.wait_for(lambda: list(out.glob("*.index")), "an index", 120)
    job = element(array, "1")["JobId"]
    if victim == "requeued":
        cluster.run(["scontrol", "requeue", job])
        cluster.start_now(job)
    else:
        cluster.run(["scancel", f"{array}_1"])
    cluster.wait_for(lambda: element(array, "0")["JobState"] == "COMPLETED", "the other element", 240)
    if victim == "requeued":
        assert cluster.wait(job, timeout_s=120)["JobState"] == "COMPLETED", log()
    names = {path.name for path in calm.iterdir()}
    assert {path.name for path in out.iterdir()} == names, log()
    assert all((calm / name).read_bytes() == (out / name).read_bytes() for name in names if name.endswith(".index"))
    assert read_manifest(out).fingerprint == read_manifest(calm).fingerprint
    late = submit("7")
    cluster.wait_for(lambda: (element(late, "7") or {}).get("JobState") == "COMPLETED", "a late element", 60)
    assert "up to date" in log()
