"""The conditional transformer and everything around it that training and inference share, to the bit."""
