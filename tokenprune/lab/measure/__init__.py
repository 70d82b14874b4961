"""Running a model on samples and counting: answers, tokens, time, memory."""
