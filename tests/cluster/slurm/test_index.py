"""`banyan data index` in a SLURM array: its elements share the tars out, and one may be queued again or cancelled."""

import pytest

from tests.cluster.slurm.arrays import PrepareArrays
from tests.corpus import write_texts
from tests.data.web.wds import index_wds, write_wds
from trainer.data.tokens.manifest import read_manifest


@pytest.mark.full
@pytest.mark.parametrize("victim", ["requeued", "cancelled"])
def test_an_array_indexes_together_whatever_becomes_of_its_elements(cluster, tmp_path, victim):
    """A requeued element takes up what it had claimed; a cancelled one's is done by others, after a minute."""
    write_wds(tmp_path / "tars", [{"txt": text} for text in write_texts(4000, seed=3)], (100,) * 40)
    calm, out = index_wds(str(tmp_path / "tars"), tmp_path, output=str(tmp_path / "calm")), tmp_path / "out"
    keys = [str(tmp_path / "tars"), f"data.output={out}", f"data.tokenizer.path={tmp_path / 'tokenizer'}"]
    arrays = PrepareArrays(cluster, tmp_path, keys, cpus=1, verb="data index")
    array = arrays.submit("0-1")
    cluster.wait_for(lambda: list(out.glob("*.index")), "an index", 120)
    arrays.disturb(array, victim)
    names = {path.name for path in calm.iterdir()}
    assert {path.name for path in out.iterdir()} == names, arrays.log()
    assert all((calm / name).read_bytes() == (out / name).read_bytes() for name in names if name.endswith(".index"))
    assert read_manifest(out).fingerprint == read_manifest(calm).fingerprint
    arrays.wait_for(arrays.submit("7"), "7", 60)
    assert "up to date" in arrays.log()
