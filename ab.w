# started on Tue Nov 24 07:03:49 2026


 Performance counter stats for process id '4402,4406,4396':

             50574      context-switches                 #   26.277 K/sec                  
           1924.62 msec task-clock                       #    0.493 CPUs utilized          

       3.903344467 seconds time elapsed

