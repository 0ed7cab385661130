"""Who judges the answers of a study."""

from personavec.judges.base import Judge
from personavec.judges.of_vector import judge_of
from personavec.judges.probe import ProbeModel
from personavec.model import ChatModel
from personavec.study.given import source_of
from personavec.traits.of_vector import trait_of
from personavec.vector import PersonaVector


def jury(model: ChatModel, vector: PersonaVector) -> dict[str, Judge]:
    """The judges of a vector's trait, by name. The first one's scores come first; the last one knows coherence.

    Of a vector from texts the first is a probe, made of the half of the texts that the vector is made of, which reads
    an answer once. The contrast judge, as it was calibrated when the vector was made, is of another kind: it asks
    whether the answer was told. Neither has chosen the data; of a vector from the model's own answers the contrast
    judge has, and is alone.

    Raises:
        UserError: The vector carries no contrast judge, or a probe of its texts does not tell their sides apart.
    """
    contrast: dict[str, Judge] = {"contrast": judge_of(model, vector)}
    if (source := source_of(vector)) is None:
        return contrast
    return {"probe": ProbeModel(model, source, "probe").of_trait(trait_of(vector)), **contrast}
