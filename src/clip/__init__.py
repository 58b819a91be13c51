"""The frozen CLIP: its weights, its two towers, and what is done to images before they enter."""
