"""The gate: is the merged model the same as its adapter?"""
