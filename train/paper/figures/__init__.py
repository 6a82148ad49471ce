"""The paper's figures, drawn from our code and plotted from our results and logs."""
