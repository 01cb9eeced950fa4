// Package node has SDKs for Node, and the documents' JavaScript for mini programs, work
// through the gateway. The tests are in JavaScript; this one runs them.
package node

import (
	"os"
	"os/exec"
	"testing"

	"github.com/caddy-wechat/caddy-wechat-media/integration/gateway"
)

func TestMain(m *testing.M) { gateway.Main(m) }

// The packages must be there: npm ci gets them.
func TestNode(t *testing.T) {
	cmd := exec.CommandContext(t.Context(), "node", "--test")
	cmd.Env = append(os.Environ(),
		"GATEWAY="+gateway.Site{}.Start(t).HTTP,
		"GATEWAY_FOR_SDKS="+gateway.Site{Options: "sdk_tokens"}.Start(t).HTTP,
		"GATEWAY_FOR_WECOM="+gateway.Site{App: gateway.CorpApp, Options: "sdk_tokens"}.Start(t).HTTP,
		"GATEWAY_WITH_KEY="+gateway.Site{Options: "sdk_tokens", Other: gateway.Stranger}.Start(t).HTTP,
		"RECIPE_SDK="+gateway.Block(t, "js", "co-wechat-api"),
		"RECIPE_MINI_PROGRAM="+gateway.Block(t, "js", "wx.uploadFile"))
	out, err := cmd.CombinedOutput()
	if t.Log(string(out)); err != nil {
		t.Error(err)
	}
}
