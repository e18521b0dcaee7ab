"""The one loop that all algorithms share, and what it needs: data order, optimizer, evaluation, checkpoints."""
