"""`banyan serve`: a run or a Hugging Face folder answers by OpenAI's API, with a page at /.

banyan serve run.dir=runs/NAME                          or path=HF_FOLDER; without either, the newest run of runs/
banyan serve serve.keys=keys.txt serve.host=0.0.0.0 serve.tls_cert=cert.pem serve.tls_key=key.pem
banyan serve reload run.dir=runs/NEW serve.port=8000    the running server goes over to another model
banyan serve rollback serve.port=8000                   and back
banyan serve hash-key                                   a key, from standard input, as serve.keys may hold it
banyan serve detect text=FILE path=HF_FOLDER            whether a text bears the mark of serve.watermark
"""

from __future__ import annotations

from trainer.config.serve import Serve
from trainer.config.values import check_values
from trainer.serve.server import serve


def main(config: Serve) -> int:
    """The verb: serves until it is told to end."""
    check_values(config)
    return serve(config)
