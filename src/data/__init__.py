"""What the images and the classes are."""
