"""What processes of tests, Ray's above all, take from the environment, and how they start."""

# Starting workers is most of what a small run costs: they are kept, and need not give way to
# everything else on the machine.
KEPT_WORKERS = {
    "RAY_worker_niceness": "0",
    "RAY_num_workers_soft_limit": "12",
    "RAY_idle_worker_killing_time_threshold_ms": "600000",
}

# Test processes share the cores: threads of one would spin while those of the other work.
ONE_THREAD = {"OMP_NUM_THREADS": "1"}
