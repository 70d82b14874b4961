"""Recipe of the bundled video model: the image model's tower, a language model tuned on clips."""
