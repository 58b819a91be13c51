"""From a classifier to a file that answers as it does, and a program that shows its use."""

from pathlib import Path

from src.classifier.classifier import load
from src.export.comparison import Samples, compare, probabilities
from src.export.description import describe
from src.export.formats import FORMATS
from src.export.graph import trace
from src.export.settings import TORCH, Settings
from src.files import replacing

EXAMPLE, NAMED = Path(__file__).with_name("example.py"), '"classifier.onnx"'
"""The program that is written beside a file, and where it names the file."""


def run(settings: Settings) -> None:
    """Write the file and the program, and say how the file compares with the original.

    Raises:
        UserError: the classifier is wrong, the method cannot be exported, or the file answers
            otherwise than the original; then neither is written.
    """
    output = Path(settings.output)
    classifier = load(settings.model)
    samples = Samples(classifier, settings.images)
    about = describe(classifier, settings.precision)
    expected = probabilities(classifier, samples)
    program = trace(classifier, settings.precision, computes=settings.format == TORCH)
    write, ask = FORMATS[settings.format]
    with replacing(output) as temporary:
        write(program, about, temporary)
        told = compare(expected, samples, ask(temporary), settings.precision)
    example = output.with_name(f"{output.stem}_example.py")
    with replacing(example) as temporary:
        temporary.write_text(EXAMPLE.read_text().replace(NAMED, repr(output.name)))
    print(f"{output}: {settings.precision}, {output.stat().st_size / 1e6:.1f} MB")
    print(f"on {settings.images or 'random inputs'}: {told}")
    print(f"how it is used: python {example} {about['input']['file']}")
