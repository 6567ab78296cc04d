"""What a pass would cost, in time and memory, and which passes are made: known before they are."""
