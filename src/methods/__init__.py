"""LightningModules around the heads."""
