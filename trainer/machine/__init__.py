"""The machine under a process: durable files, ports, the processor, host memory."""
