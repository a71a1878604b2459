"""What makes it fast: how images go through the steps, and when they leave."""
