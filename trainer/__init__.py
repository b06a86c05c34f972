"""The trainer learns: interactions, kernels, models, evaluation, export."""
