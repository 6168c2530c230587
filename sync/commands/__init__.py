"""What single commands do beyond reading sources: demonstration, checks, archives, emulation."""
