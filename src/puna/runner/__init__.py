"""The runner: a model in a process of its own, so that what happens in C happens to one model only."""
