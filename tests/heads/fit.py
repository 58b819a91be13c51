"""Train a method's head as a run does, from its YAML, on given features."""

from hydra.utils import get_class
from lightning import Trainer

from src.config import build, compose
from src.job import assembly
from tests.methods.metrics import Accuracy


class Source:
    """Stands for a dataset that is not tested on."""

    class_names = ()

    def split(self, name, inputs):
        return None


def configuration(method, shots=16, overrides=()):
    return compose([f"method={method}", "dataset=digits", f"shots={shots}", *overrides])


def build_head(cfg, given, support):
    """Build the head of a configuration and show it the support set."""
    settings = {key: value for key, value in cfg.method.head.items() if key != "_target_"}
    head_class = get_class(cfg.method.head._target_)
    head = head_class(**{name: given[name] for name in head_class.given}, **settings)
    head.prepare(support)
    return head


def fit(cfg, head, support, metrics=Accuracy):
    """Train the head; return it in evaluation mode."""
    module = build(cfg.method.module, head=head, metrics=metrics())
    Trainer(
        accelerator="cpu", max_epochs=cfg.method.training.epochs, logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        num_sanity_val_steps=0,
    ).fit(module, datamodule=assembly.make_data(cfg, Source(), head.inputs, support))  # fmt: skip
    return head.eval()
