"""datatrove's stages of preparing, each on all documents: run by its own Python (tests/peers/datatrove.sh).

PYTHON tests/benchmarks/contestants/datatrove_stages.py FILE.jsonl TOKENIZER.json FOLDER [DOCUMENTS]

Standard input and output are as stages.py has them.
"""

import itertools
import json
import shutil
import sys
from pathlib import Path

from stages import FILTERS, serve  # beside this file


def main(file: Path, tokenizer: Path, folder: Path, count: int | None = None) -> None:
    """Loads the documents, makes each step once, then serves."""
    from datatrove.data import Document
    from datatrove.pipeline.dedup import MinhashConfig, MinhashDedupBuckets, MinhashDedupCluster, MinhashDedupSignature
    from datatrove.pipeline.dedup.minhash import MinhashDedupFilter
    from datatrove.pipeline.filters import (
        C4QualityFilter,
        FineWebQualityFilter,
        GopherQualityFilter,
        GopherRepetitionFilter,
    )
    from datatrove.pipeline.readers import JsonlReader
    from datatrove.pipeline.tokens import DocumentTokenizer
    from datatrove.pipeline.writers import JsonlWriter
    from datatrove.utils.hashing import HashConfig
    from datatrove.utils.logging import logger

    logger.remove()
    texts = [json.loads(line)["text"] for line in itertools.islice(file.open(), count)]
    steps = {
        "gopher_repetition": GopherRepetitionFilter(),
        "gopher_quality": GopherQualityFilter(max_non_alpha_words_ratio=0.5),
        "c4": C4QualityFilter(filter_no_terminal_punct=False, filter_curly_bracket=False),
        "fineweb_quality": FineWebQualityFilter(
            line_punct_thr=0.05, short_line_thr=0.95, char_duplicates_ratio=0.3, new_line_ratio=1
        ),
    }
    config = MinhashConfig(hash_config=HashConfig(hash_fc="sha1", precision=64))

    def documents():
        return (Document(text=text, id=str(number)) for number, text in enumerate(texts))

    def fresh(name: str) -> str:
        shutil.rmtree(folder / name, ignore_errors=True)
        return str(folder / name)

    def filtered(name: str) -> int:
        return sum(steps[name].filter(document) is True for document in documents())

    def read() -> int:
        return sum(1 for _ in JsonlReader(str(file.parent), glob_pattern=file.name, limit=count or -1).run())

    def minhash(given, name: str) -> str:
        """Signatures, pairs, clusters; returns the folder of what is to be removed."""
        fresh(name)
        places = {part: str(folder / name / part) for part in ("signatures", "pairs", "removed")}
        MinhashDedupSignature(output_folder=places["signatures"], config=config).run(given)
        for bucket in range(config.num_buckets):
            MinhashDedupBuckets(input_folder=places["signatures"], output_folder=places["pairs"], config=config).run(
                rank=bucket, world_size=config.num_buckets
            )
        MinhashDedupCluster(input_folder=places["pairs"], output_folder=places["removed"], config=config).run()
        return places["removed"]

    def near() -> int:
        minhash(documents(), "near")
        return 0

    def tokenise(given, name: str) -> int:
        step = DocumentTokenizer(
            output_folder=fresh(name), tokenizer_name_or_path=str(tokenizer), eos_token="<|endoftext|>", seed=0
        )
        step.run(given)
        return sum(path.stat().st_size // step.token_size for path in (folder / name).glob("*.ds"))

    def whole() -> int:
        """Reader → filters → JSON lines → MinHash → tokens, as its example fineweb.py has it."""
        given = JsonlReader(str(file.parent), glob_pattern=file.name, limit=count or -1).run()
        for step in steps.values():
            given = step.run(given)
        clean = fresh("clean")
        for _ in JsonlWriter(clean, compression=None).run(given):
            pass
        removed = minhash(JsonlReader(clean).run(), "whole")
        return tokenise(MinhashDedupFilter(removed).run(JsonlReader(clean).run()), "tokens-of-whole")

    serve(
        {"read": read, "near-duplicates": near, "tokenise": lambda: tokenise(documents(), "tokens"), "whole": whole}
        | {name: lambda name=name: filtered(name) for name in FILTERS}
    )


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:4]), *map(int, sys.argv[4:]))
