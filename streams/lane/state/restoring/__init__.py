"""Reading back what a lane's predecessors committed."""
