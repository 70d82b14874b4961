"""The plain model, run so that a pruned run can be held against it."""
