"""medseg's side of each contest: ``prepare(request)`` gives the work, ``keep(result, folder)`` what parity looks at."""
