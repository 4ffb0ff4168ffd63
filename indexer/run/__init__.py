"""Images through the model, part by part."""
