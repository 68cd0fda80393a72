from aiworkspace_client.cli import main

main()
