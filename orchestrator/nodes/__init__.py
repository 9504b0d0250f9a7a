"""The machines: processes, GPUs, engines and the simulator that stands in for hardware one does not have yet."""
