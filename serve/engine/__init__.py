"""Images in, scores out: queues, batches, models and the processor they run on. It knows no HTTP."""
