-- What wrk sends and says. BENCH_PICTURE is a file to upload, BENCH_REPLY the length of
-- one right reply with its header, which curl has seen.
local picture = os.getenv("BENCH_PICTURE")
if picture and picture ~= "" then
	local file = assert(io.open(picture, "rb"))
	wrk.method = "POST"
	wrk.headers["Content-Type"] = "multipart/form-data; boundary=b"
	wrk.body = '--b\r\nContent-Disposition: form-data; name="media"; filename="a.jpg"\r\n'
		.. "Content-Type: image/jpeg\r\n\r\n" .. file:read("*a") .. "\r\n--b--\r\n"
	file:close()
end

-- All replies are right if none had another status and together they have the length that
-- they must have. What has arrived of a reply when time is up counts as a part of one:
-- with 256 callers that is much.
function done(summary, latency, requests)
	local e, n = summary.errors, summary.requests
	local one, callers = tonumber(os.getenv("BENCH_REPLY")), tonumber(os.getenv("BENCH_CALLERS"))
	local wrong = e.connect + e.read + e.write + e.status + e.timeout
	if summary.bytes < n * one or summary.bytes > (n + callers) * one then
		wrong = wrong + 1
	end
	-- replies, seconds, p50 and p99 in µs, what was wrong
	print(string.format("figures %.3f %.6f %.0f %.0f %d", summary.bytes / one, summary.duration / 1e6,
		latency:percentile(50), latency:percentile(99), wrong))
end
