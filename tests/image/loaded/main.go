// Prints docker-compose.yml as `docker compose config` would: read by Compose's own library, with .env, and every profile.
package main

import (
	"context"
	"fmt"
	"os"

	"github.com/compose-spec/compose-go/v2/cli"
)

func main() {
	options, err := cli.NewProjectOptions(
		[]string{os.Args[1]},
		cli.WithEnvFiles(), // the one that is called .env
		cli.WithDotEnv,
		cli.WithProfiles([]string{"*"}),
		cli.WithInterpolation(true),
		cli.WithConsistency(true),
	)
	if err == nil {
		project, failure := options.LoadProject(context.Background())
		if err = failure; err == nil {
			var document []byte
			if document, err = project.MarshalJSON(); err == nil {
				fmt.Println(string(document))
				return
			}
		}
	}
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}
