"""What others do, re-implemented from their papers, to be measured beside ours."""
