"""The image model: recipe, backbones, embedding, model, training, windows."""
