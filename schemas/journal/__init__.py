"""What runs write down of their calls, so that whoever goes on with a run makes none twice."""
