"""What a training run would take: memory, and traffic between devices."""
