"""Templates, models and the executor: the only home of LangChain and LangGraph."""
