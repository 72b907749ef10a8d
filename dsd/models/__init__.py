"""The student and everything around it that training and inference share, to the bit."""
