"""What is known of the licences of CLIP's weights, for those who use what was adapted."""

from src.clip.weights import LOCAL_DIR
from src.files import ROOT

NOTES = {
    "openai": "OpenAI's CLIP: code and weights under the MIT licence; its model card puts deployed "
    "use, and surveillance, outside the scope of the models.",
    "laion": "LAION's OpenCLIP models: MIT licence.",
    "datacomp_": "DataComp's models: MIT licence.",
    "commonpool_": "DataComp's models: MIT licence.",
    "datacompdr": "Apple's MobileCLIP models: a licence of Apple's own, for research: read it.",
    "dfn": "Apple's DFN and MobileCLIP2 models: a licence of Apple's own, for research: read it.",
    "webli": "Google's SigLIP and SigLIP 2 models: Apache 2.0 licence.",
    "metaclip": "Meta's MetaCLIP models: CC BY-NC 4.0, not for commercial use.",
    "merged2b": "BAAI's EVA-CLIP models: MIT licence.",
}
"""By what a tag begins with, from memory: ask the publisher before it matters."""
OF_ARCHITECTURES = {
    "EVA": NOTES["merged2b"],
    "PE-Core": "Meta's Perception Encoder: Apache 2.0 licence.",
}
"""By what an architecture begins with whose tags have one publisher, from memory too."""
UNKNOWN = "The licence of the weights is not known here: ask where they come from."
OWN = "The weights come with Calipers: MIT licence."


def licence(pretrained: str | None, architecture: str) -> str:
    """Say under what licence weights are, as far as it is known.

    Args:
        pretrained: open_clip's tag, a file, or None.
        architecture: open_clip's name, or `local-dir:` and a folder.
    """
    if architecture.startswith(f"{LOCAL_DIR}{ROOT}/"):
        return OWN
    tag = pretrained if pretrained and not {".", "/"} & set(pretrained) else ""  # or a file
    if not tag or "CLIPA" in architecture:  # whose tags begin as those of other publishers
        return UNKNOWN
    known = [note for start, note in OF_ARCHITECTURES.items() if architecture.startswith(start)]
    known += [note for start, note in NOTES.items() if tag.startswith(start)]
    return known[0] if known else UNKNOWN
