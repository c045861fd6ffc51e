# started on Tue Nov 24 07:03:49 2026


 Performance counter stats for process id '4379':

             33843      context-switches                 #   12.170 K/sec                  
           2780.95 msec task-clock                       #    0.712 CPUs utilized          

       3.904923897 seconds time elapsed

