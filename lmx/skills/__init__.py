"""Agent skills: functions that models and clients call, and that LMX runs, contained."""
