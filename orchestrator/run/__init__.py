"""Running a sweep: schedule, executors, attempts, stages and early stopping."""
