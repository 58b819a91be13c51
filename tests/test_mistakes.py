"""What users mistype, and what they are told: one line each. Nothing ends in a traceback.

To add one: what is typed, and what the message must name. Every one has exit code 2, one message,
and leaves no result.
"""

import pytest

from tests.cli import refusal

MISTAKES = [
    # Lightning's own settings
    ("trainer.accelerator=gpu", "trainer: No supported gpu backend found"),
    ("trainer.accelerator=quantum", "trainer: "),
    ("trainer.devices=999", "trainer.devices=999: this machine has"),
    ("trainer.devices=none", "trainer: "),
    ("+trainer.fast_dev_run=true", "for a short try, give shots=1"),
    ("+trainer.overfit_batches=1", "for a short try, give shots=1"),
    ("+trainer.max_epochs=3", "give method.training.epochs"),
    ("+trainer.max_steps=3", "give method.training.epochs"),
    ("+trainer.precision=16-mixed", "give backbone.precision"),
    ("+trainer.callbacks=[]", "choose callbacks="),
    ("+trainer.limit_predict_batches=1", "the run decides it"),
    ("+trainer.gradient_clip=1", "has no setting 'gradient_clip' (did you mean"),
    # keys that change nothing
    # callbacks
    ("method=coop +callbacks.es._target_=some.Class", "callbacks.es: Error locating target"),
    ("method=coop +callbacks.es._target_=torch.nn.ReLU", "callbacks.es is no callback"),
    ("method=coop +callbacks.es.monitor=loss", "callbacks.es says no _target_"),
    ("method=coop +callbacks.es=3", "callbacks.es says no _target_"),
    ("method=coop callbacks=early", "there is no callbacks called 'early'"),
    ("method=coop callbacks=early_stopping +callbacks.early_stopping.wait=3", "'wait'"),
    (
        "method=coop callbacks=early_stopping callbacks.early_stopping.monitor=loss",
        "callbacks.early_stopping.monitor=loss",
    ),
    ("method=coop callbacks=early_stopping selection=fixed", "or another selection"),
    ("method=coop callbacks=learning_rate_monitor logger=none", "needs a logger"),
    # W&B and tags
    ("logger=wandb +logger.wandb.entiti=team", "did you mean 'entity'"),
    ("logger=wandb +logger.wandb.log_model=true", "is decided by the run"),
    ("logger=wandb +logger.wandb.mode=sometimes", "logger.wandb.mode=sometimes"),
    ("logger=wandb +logger.wandb.notes=[1]", "logger.wandb.notes=[1]"),
    ("logger=wandb logger.wandb.project=3", "logger.wandb.project=3"),
    ("tags=mine", "tags=mine are not texts"),
    ("logger=tensorbord", "Did you mean tensorboard"),
    ("+epochs=3", "has no key 'epochs'"),
    ("+sed=1", "Did you mean seed"),
    ("epochs=3", "no key 'epochs'"),
    # training
    ("method=coop method.training.epochs=0", "method.training.epochs=0 is not an integer from 1"),
    ("method=coop method.training.epochs=ten", "method.training.epochs=ten is not an integer"),
    ("method=coop method.training.epochs=1", "epochs=1 must be more than warmup_epochs=1"),
    ("method=coop method.training.batch_size=0", "method.training.batch_size=0 is not"),
    ("method=coop method.module.optimizer.lr=fast", "method.module.optimizer: "),
    ("method=coop method.module.optimizer.lr=-1", "method.module.optimizer: Invalid learning rate"),
    ("method=coop +method.module.optimizer.rate=1", "method.module.optimizer: "),
    ("method=calip method.head.beta2=abc", "method.head.beta2=abc is of the wrong type"),
    ("method=calip ++method.head.alpha=2", "Calip has no such setting"),
    ("method=tip_adapter ++method.support.views=2", "method.support.views=2: there is no such"),
    ("method=tip_adapter method.support.crops=0", "method.support"),
    # checkpoints
    ("method=coop ckpt_path=/no/such.ckpt", "ckpt_path=/no/such.ckpt is missing"),
    ("method=coop ckpt_path=src", "ckpt_path=src is missing"),
    ("method=coop ckpt_path=README.md", "is not a checkpoint of a run: it cannot be read"),
    # numbers
    ("shots=0", "shots=0"),
    ("shots=-1", "shots=-1"),
    ("shots=many", "shots=many"),
    ("shots=1.5", "shots=1.5"),
    ("seed=-1", "seed=-1"),
    ("seed=x", "seed=x"),
    ("batch_size=0", "batch_size=0"),
    ("backbone.batch_size=0", "backbone.batch_size=0"),
    ("method=tip_adapter shots=500", "shots=500 is more than the data holds"),
    ("on_bad_image=ignore", "on_bad_image=ignore is neither stop nor skip"),
    # choices
    ("method=tipadapter", "Did you mean tip_adapter"),
    ("dataset=eurosatt", "Did you mean eurosat"),
    ("backbone=vitb16", "Did you mean vit_b16"),
    ("selection=best", "there is no selection called 'best'"),
    ("trainer=gpu", "there is no trainer called 'gpu'"),
    ("method=tip_adapter selection.search=all", "selection.search=all is unknown"),
    # data
    ("dataset=eurosat", "eurosat"),
    ("dataset=folder", "where are your images?"),
    ("dataset=folder dataset.path=/no/such", "the folder /no/such is missing"),
    ("dataset=folder dataset.path=src", "there is no image"),
    ("dataset=precomputed dataset.path=/no/such", "/no/such"),
    ("dataset=modelnet40", "modelnet40"),
    ("dataset=solids dataset.points=1", "dataset.points=1"),
    ("dataset=solids dataset.points=many", "dataset.points=many"),
    ("dataset=solids dataset.views=7", "dataset.views=7"),
    ("dataset=solids dataset.view_weights=[1,2]", "6 numbers"),
    ("dataset=solids dataset.view_weights=[0,0,0,0,0,0]", "dataset.view_weights"),
    ("dataset=solids method=linear_probe", "linear_probe is defined for images only"),
    ("method=pointclip", "digits has none"),
    ("eval_dataset=[nonsense]", "nonsense"),
    ("eval_dataset=[letters]", "eval_dataset=letters has classes that the adapted dataset"),
    ("dataset.templates=words", "dataset.templates=words is not a list"),
    ("dataset.prompts=/no/such.json", "/no/such.json"),
    # backbones
    ("backbone.architecture=ViT-Q", "backbone.architecture=ViT-Q"),
    ("backbone.architecture=local-dir:/no/such", "/no/such"),
    ("backbone=rn50 backbone.pretrained=opnai", "backbone.pretrained=opnai"),
    ("backbone=rn50 backbone.architecture=RN50", "was trained with|were trained with|RN50"),
    ("backbone.name=rn50", "backbone.name=rn50 stands for other weights"),
    ("attention_images=[-1]", "attention_images"),
    ("attention_images=first", "attention_images=first"),
    ("method=zero_shot attention_images=[0]", "has none: choose method=calip"),
]  # fmt: skip


@pytest.mark.parametrize(("typed", "named"), MISTAKES, ids=[typed for typed, _ in MISTAKES])
def test_a_mistake_ends_in_one_message(tmp_path, tmp_path_factory, typed, named):
    shared = tmp_path_factory.getbasetemp() / "features"
    shared.mkdir(exist_ok=True)
    (tmp_path / "features").symlink_to(shared)
    message = refusal(
        tmp_path, *typed.split(), *(["logger=none"] if "logger=" not in typed else [])
    )
    assert any(words in message for words in named.split("|"))
    assert not list(tmp_path.glob("output/*.json"))
