"""What Ray clusters of tests take from the environment."""

# Starting workers is most of what a small run costs: they are kept, and need not give way to
# everything else on the machine.
KEPT_WORKERS = {
    "RAY_worker_niceness": "0",
    "RAY_num_workers_soft_limit": "12",
    "RAY_idle_worker_killing_time_threshold_ms": "600000",
}
