"""Training, export and evaluation of the bundled detail model, from the small image model on."""
