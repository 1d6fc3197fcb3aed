"""Lists of domains, addresses and words, and addresses near them, made by chance, for url_list and datatrove."""

from __future__ import annotations

import random

LISTS = {
    "domains": [
        "# remarks begin so",
        "casino-example.com",
        "spam-example.co.uk",
        "ads.news-example.com",
        "blogspot.com",
        "bücher-example.de",
    ],
    "urls": ["https://news-example.com/2020/01/sponsored", "http://shop-example.org/index.html?id=3"],
    "words": ["casino", "Jack-Pot", "xxx"],
    "soft_words": ["cheap", "pills", "bonus", "free"],
    "substrings": ["onlinepoker", "free-money"],
}
HOSTS = [
    "casino-example.com", "www.casino-example.com", "mycasino-example.com", "spam-example.co.uk",
    "a.spam-example.co.uk", "co.uk", "ads.news-example.com",
    "news-example.com", "me.blogspot.com", "shop-example.org", "shop-example.org:8080", "user:word@shop-example.org",
    "192.0.2.7",
    "localhost",
]  # fmt: skip
PARTS = [
    "2020", "01", "sponsored", "index.html?id=3", "casino", "casinos", "jackpot", "jack-pot", "xxx", "cheap", "pills",
    "cheap-pills", "bonus_free", "online-poker", "free%20money", "freemoney", "weather", "a.b", "#part",
    "?q=cheap+free",
]  # fmt: skip


def addresses(count: int, seed: int) -> list[str]:
    """So many addresses: what they are follows from the seed alone."""
    draw = random.Random(seed)
    fixed = [*LISTS["urls"], f"{LISTS['urls'][0]}/", "https://casino-example.com", "http://spam-example.co.uk."]
    made = [
        f"{draw.choice(['http', 'https'])}://{draw.choice(HOSTS)}/{'/'.join(draw.sample(PARTS, draw.randint(0, 3)))}"
        for _ in range(count - len(fixed))
    ]
    return fixed + made
