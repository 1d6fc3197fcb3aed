"""The probability of a label by a fastText model that the user names, such as DCLM's for quality."""

from __future__ import annotations

from trainer.config.clean import Classifier
from trainer.data.clean.document import CleanedDocument, Limits, Verdict
from trainer.data.clean.models import open_fasttext

NAME = "classifier"
PREFIX = "__label__"


class ClassifierStage:
    """Rejects texts of too small, or too great, a probability of the label."""

    @staticmethod
    def limits_of(settings: Classifier) -> Limits:
        """The rules, in order."""
        return Limits(
            NAME,
            {
                "score": (settings.lowest, settings.highest),
            },
        )

    def __init__(self, settings: Classifier) -> None:
        self._model = open_fasttext(str(settings.model), f"data.clean.{NAME}.model")
        self._label = f"{PREFIX}{settings.label}"
        self._limits = self.limits_of(settings)

    def __call__(self, document: CleanedDocument) -> Verdict | None:
        """The label's probability, 0 for a text of which the model knows no word."""
        labels, scores = self._model.predict(document.text.strip().replace("\n", " "), k=-1)
        score = dict(zip(labels, scores, strict=True)).get(self._label, 0.0)
        return self._limits.verdict(document, {"score": min(1.0, float(score))})
