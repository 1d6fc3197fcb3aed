"""What can be wrong with an example, each a reason under which it is refused or counted."""

from __future__ import annotations

BAD_FIELDS = "bad_fields"  # a record without the fields of its format, or with other things in them
BAD_CODES = "bad_codes"  # codes of a modality that are none, or outside its range
OUT_OF_TURN = "out_of_turn"  # an unknown role, or one that can't follow the message before
EMPTY_TEXT = "empty_text"  # nothing to judge or to translate
UNKNOWN_LABEL = "unknown_label"  # one that isn't in data.labels
EMPTY_ANSWER = "empty_answer"  # an answer of white space alone
EQUAL_SIDES = "equal_sides"  # a preference whose chosen and rejected answers are the same
NO_TARGET = "no_target"  # nothing to learn: always counted, never refused
SPELLS_SPECIAL = "spells_special"  # a text that spells a special token, which would stand for that token
TEMPLATE = "template"  # the chat template fails
NO_PREFIX = "no_prefix"  # the ids of a prompt don't begin those of the whole


class ExampleFault(Exception):
    """An example that can't be learnt from: a `reason` to count it under, and what is wrong in a phrase."""

    def __init__(self, reason: str, what: str) -> None:
        super().__init__(what)
        self.reason = reason
