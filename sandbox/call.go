package sandbox

// One call, and what every answer to one has in common.

import (
	"encoding/json"
	"net"
	"net/http"
	"strconv"
	"time"
)

// call is a request to one of the endpoints.
type call struct {
	w        http.ResponseWriter
	r        *http.Request
	endpoint Endpoint
	platform *platform
	now      func() time.Time
}

// refuse answers with an error, which has status 200 like everything else.
func (c *call) refuse(e *apiError) {
	caller, _, err := net.SplitHostPort(c.r.RemoteAddr)
	if err != nil {
		caller = c.r.RemoteAddr
	}
	errmsg, headers := c.platform.explain(e, c.now(), caller)
	for name, value := range headers {
		c.w.Header()[name] = []string{value} // in this spelling
	}
	c.reply(c.platform.jsonType, struct {
		Errcode int    `json:"errcode"`
		Errmsg  string `json:"errmsg"`
	}{e.code, errmsg})
}

// refuseEarly is refuse before the body has been read, which ends the connection.
func (c *call) refuseEarly(e *apiError) {
	c.closeConnection()
	c.refuse(e)
}

// reply answers with JSON.
func (c *call) reply(contentType string, v any) {
	body, _ := json.Marshal(v)
	h := c.w.Header()
	h.Set("Content-Type", contentType)
	h.Set("Content-Length", strconv.Itoa(len(body)))
	c.w.WriteHeader(http.StatusOK)
	if c.r.Method != http.MethodHead {
		_, _ = c.w.Write(body)
	}
}

// refuseUnknownLength answers a body without Content-Length as WeChat does: 412
// and nothing else.
// https://developers.weixin.qq.com/community/develop/doc/000a6ca7ae4988a4d9f949d4456800
// That WeCom does so is a guess.
func (c *call) refuseUnknownLength() {
	c.closeConnection()
	c.w.Header().Set("Content-Length", "0")
	c.w.WriteHeader(http.StatusPreconditionFailed)
}

// refusePath answers for a path that there is not: 404 and nothing else, as seen in a
// transcript of 2018.
func (c *call) refusePath() {
	c.w.Header().Set("Content-Length", "0")
	c.w.WriteHeader(http.StatusNotFound)
}

func (c *call) closeConnection() {
	if c.r.ProtoMajor == 1 {
		c.w.Header().Set("Connection", "close")
	}
}
