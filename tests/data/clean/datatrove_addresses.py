"""What datatrove says of addresses: run by its own Python (tests/peers/datatrove.sh), JSON in, JSON out.

    PYTHON tests/data/clean/datatrove_addresses.py < asked.json > reasons.json

In is {"lists": {"domains": [entry…], …}, "addresses": [address…]}; out the reason for each, or "" where it stays.
"""

import json
import sys


def main():
    from datatrove.data import Document
    from datatrove.pipeline.filters import URLFilter
    from tldextract import TLDExtract

    asked = json.load(sys.stdin)
    lists = asked["lists"]
    each = URLFilter(
        extra_domains=lists["domains"],
        extra_urls=lists["urls"],
        banned_words=lists["words"],
        soft_banned_words=lists["soft_words"],
        banned_subwords=lists["substrings"],
        use_integrated_lists=False,
    )
    each.tldextractor = TLDExtract(suffix_list_urls=())  # its own copy, without a network
    found = []
    for address in asked["addresses"]:
        verdict = each.filter(Document(text="text", id="", metadata={"url": address}))
        found.append("" if verdict is True else verdict[1])
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
