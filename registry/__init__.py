"""What is recorded about a merged model and what may be promoted. The only room that touches MLflow."""
