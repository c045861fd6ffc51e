wrk.method="POST"; wrk.headers["Authorization"]="Bearer kw_3XRbuuWbL_wX1uDptMRW57TPobTM1ftQwzVM0fthog4"; wrk.body='{"message":"aGVsbG8gd29ybGQgaGVsbG8gd29ybGQgMTIzNDU2"}'
