"""What torchao and torch say of themselves at their import doesn't reach the user's terminal."""

import subprocess
import sys

import pytest

FIRST_TO_IMPORT = {
    "adapters": "from trainer.model.adapters import _peft; _peft()",
    "int8": "from trainer.model.hugging_face.int8_weights import file_metadata; file_metadata({}, [], None)",
}


@pytest.mark.parametrize("first", FIRST_TO_IMPORT)
def test_nothing_is_printed_by_whoever_imports_them_first(first):
    done = subprocess.run([sys.executable, "-c", FIRST_TO_IMPORT[first]], capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
